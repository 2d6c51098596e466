"""Many trainings of one student side by side: what differs between them, how they are shared out, what is known of them."""
