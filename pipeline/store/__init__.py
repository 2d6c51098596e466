"""What has been made, in folders named after the hash of their inputs."""
