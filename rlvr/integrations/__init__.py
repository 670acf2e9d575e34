"""Our verifiers inside other trainers: TRL, verl, OpenRLHF, prime `verifiers`. None of them is imported here."""
