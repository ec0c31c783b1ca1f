"""The server: :func:`lib.server.app.create_app` puts its parts together."""
