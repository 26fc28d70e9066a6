"""How the log leaves the machine and comes back: shards, the dataset on the Hub, the outbox, restore, check.

Leans on ``study``; imports neither gradio nor torch, and ``huggingface_hub`` only where a dataset is named.
"""
