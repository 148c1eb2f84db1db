"""One worker loop for every stage: receive, read inputs, compute in a child, upload, commit, publish, tell, ack.

stage, workspace              what a stage is, and the folder that it sees
worker, turn                  the consumer of a queue; one delivery's way through the loop
reading, manifests, inputs    what a delivery asks for, and what it is computed from
attempt, making, commit       what a delivery makes of a step, and its commit point
repair, reuse                 taking back what is damaged; what a retried job takes over
scatter, part, gather         a step that is divided: its parts, and what follows the last of them (share, splits, share_turn)
telling, settling, patience   events and the next step; the settlements; waiting for servers that are away
compute, child…               the stage in a process of its own (child_main runs there), within its limits
entrypoint                    `python -m services.<stage>`: worker, or one run by hand
health, metrics, logging, watchdog, settings, workfolder
"""
