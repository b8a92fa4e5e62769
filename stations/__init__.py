"""The demonstration catalogue of Qingdao: YAML data only, a package so that it ships in the wheel."""
