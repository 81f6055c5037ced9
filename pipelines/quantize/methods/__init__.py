"""One small adapter for each quantization library; each writes a checkpoint that transformers loads by itself."""
