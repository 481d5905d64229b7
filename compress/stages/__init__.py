"""What the pipeline is made of: the output folder with its resume state, the block loop, the memory plan, the account."""
