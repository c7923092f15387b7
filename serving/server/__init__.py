"""Serving over HTTP in the OpenAI format, so that any OpenAI client can use our engines."""
