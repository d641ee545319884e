"""One run: its settings, phases, images, networks, folder and monitor."""
