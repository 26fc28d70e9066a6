"""Arms: the systems under comparison. Each turns a conversation into a reply; none knows of studies or pages."""
