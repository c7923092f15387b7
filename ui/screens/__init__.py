"""The pages of the console, drawn with Streamlit."""
