"""Sources, tokenizers, transforms and the loader: numpy in, numpy out."""
