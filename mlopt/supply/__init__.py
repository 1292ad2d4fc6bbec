"""What an image is made of, where it comes from, who vouches for it: SBOMs, provenance, signatures, verification."""
