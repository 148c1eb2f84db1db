"""Messages, manifests and events: the words that the parts speak. Imports nothing of ours outside this folder."""
