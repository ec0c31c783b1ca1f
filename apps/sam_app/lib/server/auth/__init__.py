"""Access control: API keys, OpenID Connect and roles; set up by :func:`lib.server.auth.setup.install`."""
