"""From documents to arrays: cleaning, tokenizers, and the layouts of rows."""
