"""The kept files for plain vLLM fail, each on its release.

`test_each_is_red_where_it_came_from` runs them there.
"""

collect_ignore_glob = ["vllm_*/*_vllm.py"]
