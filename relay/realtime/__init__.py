"""Live connections of devices: what they may say, who is connected here, and what is written to each."""
