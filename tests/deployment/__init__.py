"""The images and the compose file, read as text: no container engine is needed."""
