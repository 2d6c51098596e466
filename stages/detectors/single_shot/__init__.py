"""What SSD and SSDlite share."""
