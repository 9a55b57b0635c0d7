"""One file a kind of token. A tokenizer turns a batch into a token set, and back."""
