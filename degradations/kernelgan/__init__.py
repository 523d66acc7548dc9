"""KernelGAN: the estimation of the kernel by which an image was made smaller."""
