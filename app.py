"""Start the portal: ``python app.py``. On a Space this file is the app.

EXTES_STUDY       the study file (default: studies/starter.toml)
EXTES_DATA_DIR    where ratings are kept (default: data/)
EXTES_RATINGS_REPO, HF_TOKEN    the Hub dataset that ratings are sent to, and a token that may write to it
EXTES_RATINGS_VISIBILITY    private (complete; the default) or public (redacted)
EXTES_PSEUDONYM_KEY    the key of the raters' pseudonyms, where the disk does not survive a restart
GRADIO_SERVER_NAME, GRADIO_SERVER_PORT    address and port (default: this machine only, 7860 or the next free one)
"""

from __future__ import annotations

import sys

from extes.portal.serve import main

if __name__ == "__main__":
    sys.exit(main())
