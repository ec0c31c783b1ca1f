"""Train the bundled model ``sam_tiny`` on synthetic images; see --help."""

from __future__ import annotations

from tiny.main import main

if __name__ == "__main__":
    main()
