"""What is downloaded: prebuilt splits and evaluation assets, resumed and checksummed."""
