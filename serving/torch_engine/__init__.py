"""The in-process engine: a Llama-family model on plain tensors, with native kernels where a compiler is at hand."""
