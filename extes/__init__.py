"""ExTES Portal: from seed dialogues to rated emotional-support models."""

__version__ = "0.1.0"
