"""Read a Hugging Face Gemma 3n checkpoint: config, tensors (lazily), tokenizer, adapter."""
