"""Sound in, sound out: files and pipes as blocks, resampling, STFT, mixing."""
