"""What the evaluate command is made of: the line-up, who fools whom, epsilon curves, signs of masking, and files."""
