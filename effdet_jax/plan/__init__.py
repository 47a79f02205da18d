"""What training takes on devices that aren't here: the step compiled ahead of time, its memory."""
