"""Train the network that follows objects through volumes; see --help."""

from __future__ import annotations

from follow.main import main

if __name__ == "__main__":
    main()
