"""Access control: API keys, OpenID Connect and roles."""
