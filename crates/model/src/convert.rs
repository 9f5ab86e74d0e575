//! From Hugging Face folders and llama2.c files to GGUF.
