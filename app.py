"""Start the portal: ``python app.py``. On a Space this file is the app.

EXTES_STUDY       the study file (default: studies/starter.toml)
EXTES_DATA_DIR    where ratings are kept (default: data/)
GRADIO_SERVER_NAME, GRADIO_SERVER_PORT    address and port (default: this machine only, 7860 or the next free one)
"""

from __future__ import annotations

import sys

from extes.portal.serve import main

if __name__ == "__main__":
    sys.exit(main())
