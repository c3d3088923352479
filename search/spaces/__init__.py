"""Search spaces and their builders."""
