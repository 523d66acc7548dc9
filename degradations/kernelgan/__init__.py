"""KernelGAN: estimate the kernel by which an image was made smaller."""
