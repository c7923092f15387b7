"""Entry script of the console; ``agentsys console`` runs it with Streamlit."""

import streamlit as st


def main() -> None:
    """Draw the frame and the page of the URL."""
    st.set_page_config(page_title="agentsys", page_icon=":material/dashboard:", layout="wide")
    pages = [
        st.Page("screens/runs.py", title="Runs", icon=":material/play_circle:", url_path="runs", default=True),
        st.Page("screens/blackboard.py", title="Blackboard", icon=":material/view_list:", url_path="blackboard"),
    ]
    st.navigation(pages, position="top").run()


if __name__ == "__main__":
    main()
