"""What est-eval and est-analyze share: any checkpoint, ours or not, opened; the processes; how far they are."""
