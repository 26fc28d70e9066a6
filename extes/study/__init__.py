"""A study: its configuration, who compares what, what was said and rated, and the log that keeps it.

Imports neither gradio nor torch.
"""
