"""What the pages share: settings, the sidebar, the job worker, and reading results."""
