"""One job on several stream engines (job.py says which): one file an engine, each a process of its own."""
