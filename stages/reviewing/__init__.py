"""What the features and the pixels tell about the data itself: wrong labels, near-duplicates, odd images."""
