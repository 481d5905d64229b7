"""What the pipeline is made of: output folder and resume state, block loop, memory plan, account, proof."""
