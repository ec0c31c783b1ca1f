"""The app's version: the one place where it stands. CHANGELOG.md and CITATION.cff name the same one."""

VERSION = "0.2.0"
