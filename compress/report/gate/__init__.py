"""The gate's verdict as files and tables."""
