"""vLLM's asynchronous engine behind the engine protocol; needs the extra ``vllm``."""
