"""From documents to arrays: cleaning, tokenizers and row layouts."""
