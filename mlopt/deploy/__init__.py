"""What runs the image elsewhere: compose and Kubernetes files, written into the bundle beside it."""
