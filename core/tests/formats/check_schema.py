"""Validates a JSON file by a JSON schema: python check_schema.py SCHEMA FILE"""

import json
import sys

import jsonschema

with open(sys.argv[1], encoding="utf-8") as schema_file, open(sys.argv[2], encoding="utf-8") as file:
    schema = json.load(schema_file)
    document = json.load(file)
validator = jsonschema.validators.validator_for(schema)
validator.check_schema(schema)
errors = [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in validator(schema).iter_errors(document)]
sys.exit("\n".join(errors[:10]) or 0)
