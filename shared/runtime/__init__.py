"""One worker loop for every stage: receive, read inputs, compute in a child, upload, commit, publish, tell, ack."""
