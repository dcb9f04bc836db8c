"""Tests of httpd_download: python3 -m unittest, from the folder above."""
