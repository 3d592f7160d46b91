"""`jboost boost --on ray`: the shards of a run on the machines of a Ray cluster. Nothing else imports Ray.

Ray moves the shards' names and what became of them. The workers read and write the files themselves, in a folder that all
machines share, so no image enters Ray's object store.
"""
