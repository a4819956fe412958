"""Does the diversity of clients predict who gains from federation?"""
