"""The app's version, as in CHANGELOG.md."""

VERSION = "0.1.0"
